-- Wireshark's globals (Lua API of the user's guide).
std = "min"
max_line_length = false
read_globals = {
  "Proto", "ProtoField", "ProtoExpert", "Field", "Pref", "DissectorTable", "NSTime", "UInt64", "Int64",
  "ByteArray", "base", "expert",
}
