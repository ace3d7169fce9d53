"""What a person reads about a build: the page and the lines on the terminal."""

from .page import Content as Content
from .page import render_report as render_report
from .summary import describe_build as describe_build
from .summary import describe_evaluation as describe_evaluation
from .summary import describe_list as describe_list
from .summary import describe_releases as describe_releases
from .summary import describe_rollback as describe_rollback
from .summary import describe_tuning as describe_tuning
from .summary import describe_unchanged as describe_unchanged
