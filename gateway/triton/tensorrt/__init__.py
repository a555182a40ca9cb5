"""TensorRT engines from exported graphs: profiles, build scripts, keys, configs. No TensorRT is imported here."""
