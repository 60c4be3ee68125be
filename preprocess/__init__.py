"""Raw parallel text -> cleaned -> one joint SentencePiece model -> fairseq's binary data.

Steps for any corpus, each run from the repository's root as `python -m preprocess.STEP`:
`clean`, `sentencepiece_model`, `binarize`. They are not part of the installed package.
"""
