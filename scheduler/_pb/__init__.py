"""Generated from proto/ullage/v1 by `make proto`; never edited by hand."""
