"""The page of the study."""

# Recipe -> the weights it may be read by; "raw" where there is none.
READ = {
    "adamw": ("average", "bank"),
    "adamw+interpolated": ("average", "bank"),
    "adamw+cautious": ("bank",),
    "adamw+cautious+interpolated": ("bank",),
    "prodigy": ("bank",),
    "adamw+growth": ("bank",),
    "adamw+growth+cautious": ("bank",),
    "adamw+growth+interpolated": ("bank",),
    "adamw+growth+brake": ("bank",),
}
