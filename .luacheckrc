-- Wireshark's globals (Lua API of the user's guide).
std = "min"
max_line_length = false
read_globals = {
  "Proto", "ProtoField", "ProtoExpert", "Field", "Pref", "DissectorTable", "NSTime", "UInt64", "Int64",
  "ByteArray", "base", "expert", "TextWindow", "Listener", "gui_enabled", "register_menu",
  "copy_to_clipboard", "set_filter", "apply_filter", "get_preference", "MENU_STAT_UNSORTED",
}
