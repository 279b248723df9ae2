"""What happens when something dies: guardian, warm server, generations, and planned faults."""
