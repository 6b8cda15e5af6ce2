{ alertmanager:: {} }
