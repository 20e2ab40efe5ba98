"""Reports of finished runs: what a workdir holds, figures of it, pictures, and the page."""
