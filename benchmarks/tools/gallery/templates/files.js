// The lines of every algorithm file as HTML: the head docstring and what follows it.
const files = {{ files }};
