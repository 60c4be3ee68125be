"""What a training run needs beyond fairseq's trainer: start-up checks, resuming, first weights."""
