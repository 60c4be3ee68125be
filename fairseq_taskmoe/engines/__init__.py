"""An extracted model that translates, with fairseq or CTranslate2, opened by its manifest."""
