"""The model stage: encode, prefill, decode; encoder outputs are gone when the prefill is done."""
