// All algorithm files: `lines` has each highlighted line once, `files` the places of a file's lines in it, how many are
// of its head, and its regions; `distance` has the changed lines of code of each pair.
const { lines, files, distance, regionTitles } = {{ data | json }};
