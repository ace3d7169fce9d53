"""What an app's service imports: predictions and lists, with NumPy alone."""

from .export import export_lists as export_lists
from .model import CollaborativeModel as CollaborativeModel
from .model import Recommendation as Recommendation
from .model import load_collaborative as load_collaborative
from .snapshot import FoldedUser as FoldedUser
