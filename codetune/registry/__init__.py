"""The models of this machine: one folder and one card a version, safetensors only."""
