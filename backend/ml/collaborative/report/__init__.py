"""What a person reads about a build: the page and the lines on the terminal."""
