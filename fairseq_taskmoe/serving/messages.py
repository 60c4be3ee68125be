"""What requests ask and what they are answered, as JSON."""

from typing import List, Union

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from ..engines.engine import SearchOptions
from .limits import Limits


class TranslationRequest(BaseModel):
    """Texts of one direction; each is translated as one sentence."""

    # a misspelled option must not be passed over, nor "4" be taken for a number
    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(max_length=64, description="language of the texts", examples=["en"])
    target: str = Field(max_length=64, description="language to translate to", examples=["de"])
    text: Union[str, List[str]] = Field(description="a text, or several", examples=["Good day!"])
    beam: int = Field(4, ge=1)
    n_best: int = Field(1, ge=1, description="translations of each text, at most beam")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="more than 1 favours longer translations"
    )
    max_length: int = Field(200, ge=1, description="pieces of a translation; it ends there")

    @field_validator("text", mode="before")
    @classmethod
    def one_or_several(cls, value: object) -> object:
        """Say in one line what the union's members would each complain about."""
        texts = value if isinstance(value, list) else [value]
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                where = f"element {index} is neither: " if isinstance(value, list) else ""
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
        description="log-probability of the pieces and the end, over their number ** "
        "length_penalty; 0: no text"
    )


class TranslationAnswer(BaseModel):
    lang_pair: str
    translations: List[List[ScoredText]] = Field(description="of each text, the best first")


class Direction(BaseModel):
    lang_pair: str
    source: str
    target: str


class Directions(BaseModel):
    directions: List[Direction]


class Health(BaseModel):
    status: str


class Error(BaseModel):
    error: str = Field(description="what is wrong, in one line")


def shown(given: object) -> str:
    """Return what a client has sent as a short part of one line."""
    return ascii(str(given))[1:-1][:64]


def error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def parse(body: bytes, limits: Limits) -> TranslationRequest:
    """Return what a body asks for. Raises HTTPException: 400 for no JSON, 422 for wrong fields."""
    try:
        asked = TranslationRequest.model_validate_json(body)
    except ValidationError as problem:
        mistakes = problem.errors(include_url=False, include_input=False, include_context=False)
        if mistakes[0]["type"] == "json_invalid":
            raise HTTPException(400, mistakes[0]["msg"]) from None
        named = [f"{'.'.join(map(shown, each['loc'])) or 'body'}: {each['msg']}"
                 for each in mistakes]
        raise HTTPException(422, "; ".join(named)[:500]) from None  # they name unknown fields
    if asked.beam > limits.max_beam:
        beam = shown(asked.beam)
        raise HTTPException(422, f"beam: {beam}, and at most {limits.max_beam} is allowed")
    if asked.n_best > asked.beam:
        raise HTTPException(422, f"n_best: {shown(asked.n_best)}, and the beam has {asked.beam}")
    if len(asked.texts) > limits.max_texts:
        raise HTTPException(422, f"text: {len(asked.texts)}, and at most {limits.max_texts} go in")
    return asked
