"""What can be served: model repositories, read and checked before Triton is asked, and voice packs."""
