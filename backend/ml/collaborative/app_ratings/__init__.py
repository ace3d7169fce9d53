"""The app's own ratings, over REST or straight from Postgres."""
