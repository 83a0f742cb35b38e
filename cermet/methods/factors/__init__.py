"""Methods that merge LoRA adapters as adapters: factors in, factors out."""
