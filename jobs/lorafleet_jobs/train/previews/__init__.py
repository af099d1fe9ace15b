"""What a job looks like while it is trained: its validation pictures, and the preview of its bundle."""
