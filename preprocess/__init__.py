"""Raw parallel text -> clean text -> one joint SentencePiece model -> fairseq's binary data.

`python -m preprocess.run` runs all steps, for any corpus: see README.md. A wheel has it as
fairseq_taskmoe.preprocess.
"""
