-- SPDX-License-Identifier: GPL-2.0-or-later
-- What any Lua dissector costs: it takes the conversation and adds one field to each packet.

local proto = Proto("trivial", "Trivial")
local octets = ProtoField.uint32("trivial.octets", "Octets", base.DEC)
proto.fields = { octets }

function proto.dissector(tvb, pinfo, tree)
  pinfo.cols.protocol:set("TRIVIAL")
  tree:add(proto, tvb()):add(octets, tvb:reported_len()):set_generated()
  return tvb:len()
end

DissectorTable.get("tcp.port"):add(7002, proto)
