-- SPDX-License-Identifier: GPL-2.0-or-later
-- What any Lua dissector costs that notices missing octets: as trivial.lua, reading stream and sequence numbers.

local proto = Proto("positions", "Positions")
local octets = ProtoField.uint32("positions.octets", "Octets", base.DEC)
proto.fields = { octets }

local tcp_stream, tcp_seq = Field.new("tcp.stream"), Field.new("tcp.seq")

function proto.dissector(tvb, pinfo, tree)
  local stream, seq = tcp_stream(), tcp_seq()
  if stream.value < 0 or seq.value < 0 then return 0 end -- never; but both are read
  pinfo.cols.protocol:set("POSITIONS")
  tree:add(proto, tvb()):add(octets, tvb:reported_len()):set_generated()
  return tvb:len()
end

DissectorTable.get("tcp.port"):add(7002, proto)
