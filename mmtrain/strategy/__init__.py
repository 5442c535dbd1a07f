"""How the model is spread over devices: config group ``strategy`` gives the Lightning ``Trainer`` its strategy."""
