"""How a Triton kernel reads the pixels of kept patches."""
