"""Translation with an extracted model, in fairseq or CTranslate2."""
