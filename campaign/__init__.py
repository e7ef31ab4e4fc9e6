"""Programs that try to break curate's promises, each with its seeds, its counts and a way to replay one trial. Not installed with the package."""
