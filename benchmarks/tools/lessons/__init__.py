"""Ten lessons, from REINFORCE on one prompt to a controller: a Markdown file each, read as a page and as a notebook."""
