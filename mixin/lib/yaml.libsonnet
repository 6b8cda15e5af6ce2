// YAML as people write it, under a line that says where it comes from.
{
  document(value):: '# Generated from mixin/ by `make generate`. Edit there.\n' +
                    std.manifestYamlDoc(value, indent_array_in_object=false, quote_keys=false),
}
