"""The clerk's tool."""


def calculator(a, operator, b):
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])
