"""Load tests of Parley: locust users, scenarios, emulators of the parts behind the gateway, reports."""
