"""What Everref does: each flow joins the edges into one piece of work that is safe to run twice."""
