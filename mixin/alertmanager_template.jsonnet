// The file ends as text does: the generator adds the newline.
std.rstripChars(importstr 'templates/niodoo.tmpl', '\n')
