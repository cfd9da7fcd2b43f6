"""The plugins that come with zs2kit, one file each."""
