"""SGLang and vLLM as processes of the run: their own flags, checked before the start; children that end when we do."""
