"""Raw parallel text -> clean -> one joint SentencePiece model -> fairseq's binary data.

`python -m preprocess.run` does it all, for any corpus: README.md. Not part of what is installed.
"""
