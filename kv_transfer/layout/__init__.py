"""Block layouts: which bytes go where between two layouts, their conversion and checksums."""
