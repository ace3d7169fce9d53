"""One release and the store of them: written, verified, published, rolled back."""
