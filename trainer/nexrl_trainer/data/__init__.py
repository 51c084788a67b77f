"""Data: tasks from where people have them, mixed, and drawn in an order that a resumed run goes on with."""
