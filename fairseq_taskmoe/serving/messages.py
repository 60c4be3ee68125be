"""The JSON of requests and answers."""

from typing import List, Union

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from ..engines.engine import SearchOptions
from .limits import Limits


class TranslationRequest(BaseModel):
    """Texts of one direction; each is translated as one sentence."""

    # reject misspelled options, and "4" as a number
    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(max_length=64, description="language of the texts", examples=["en"])
    target: str = Field(max_length=64, description="language of the translations", examples=["de"])
    text: Union[str, List[str]] = Field(description="a text, or several", examples=["Good day!"])
    beam: int = Field(4, ge=1)
    n_best: int = Field(1, ge=1, description="translations of each text, at most beam")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="more than 1 favours longer translations"
    )
    max_length: int = Field(200, ge=1, description="maximum pieces of a translation")

    @field_validator("text", mode="before")
    @classmethod
    def one_or_several(cls, value: object) -> object:
        """Reject other types with one message, instead of one for each member of the union."""
        texts = value if isinstance(value, list) else [value]
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                where = f"element {index} is not a string: " if isinstance(value, list) else ""
                raise PydanticCustomError("text", f"{where}give a string or a list of strings")
        return value

    @property
    def lang_pair(self) -> str:
        return f"{self.source}-{self.target}"

    @property
    def texts(self) -> List[str]:
        return [self.text] if isinstance(self.text, str) else self.text

    @property
    def options(self) -> SearchOptions:
        return SearchOptions(
            self.beam, self.n_best, self.length_penalty, max_length=self.max_length
        )


class ScoredText(BaseModel):
    text: str
    score: float = Field(
        description="log-probability of pieces and end of sentence, divided by their number ** "
        "length_penalty; 0 for an empty text"
    )


class TranslationAnswer(BaseModel):
    lang_pair: str
    translations: List[List[ScoredText]] = Field(description="for each text, the best first")


class Direction(BaseModel):
    lang_pair: str
    source: str
    target: str


class Directions(BaseModel):
    directions: List[Direction]


class Health(BaseModel):
    status: str


class Error(BaseModel):
    error: str = Field(description="one line")


def printable(given: object) -> str:
    """Return input of a client, shortened and escaped for a message of one line."""
    return ascii(str(given))[1:-1][:64]


def error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def parse(body: bytes, limits: Limits) -> TranslationRequest:
    """Parse a body. Raises HTTPException with 400 for invalid JSON, 422 for wrong fields."""
    try:
        request = TranslationRequest.model_validate_json(body)
    except ValidationError as problem:
        errors = problem.errors(include_url=False, include_input=False, include_context=False)
        if errors[0]["type"] == "json_invalid":
            raise HTTPException(400, errors[0]["msg"]) from None
        named = [f"{'.'.join(map(printable, each['loc'])) or 'body'}: {each['msg']}"
                 for each in errors]
        raise HTTPException(422, "; ".join(named)[:500]) from None  # field names may be long
    if request.beam > limits.max_beam:
        beam = printable(request.beam)
        raise HTTPException(422, f"beam: {beam}, at most {limits.max_beam} is allowed")
    if request.n_best > request.beam:
        n_best = printable(request.n_best)
        raise HTTPException(422, f"n_best: {n_best}, at most the beam of {request.beam} is allowed")
    if len(request.texts) > limits.max_texts:
        number = len(request.texts)
        raise HTTPException(422, f"text: {number} texts, at most {limits.max_texts} are allowed")
    return request
