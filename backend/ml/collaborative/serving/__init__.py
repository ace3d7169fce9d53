"""What an app's service imports: predictions and lists, with NumPy alone."""
