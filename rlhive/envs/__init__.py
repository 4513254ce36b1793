"""RoboHive environments and the robot models they need."""
