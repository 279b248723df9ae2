"""What a run left, read again: its files, how it stands, where its time went."""
