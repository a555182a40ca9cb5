class TritonPythonModel:
    def initialize(self, args):
        raise RuntimeError("the dictionary is missing")
