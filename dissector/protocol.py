# SPDX-License-Identifier: GPL-2.0-or-later
"""The one description of the wire: Xen migration v2, Remus and COLO.

Pure data.  Framing, Scapy layer, Lua dissector and field reference are all made from these
tables; a number or a name of the protocol stands here and nowhere else.

Sources: Xen's ``docs/specs/libxl-migration-stream.pandoc`` (revision 2) and
``docs/specs/libxc-migration-stream.pandoc`` (revision 3), ``tools/libs/light`` (libxl),
``tools/libs/guest`` (libxc's stream code) and ``tools/xl``.  `Structure.source` names the C
declaration, `Field.xen` the member in it where Xen's name is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# --- vocabulary -------------------------------------------------------------------------------

XL, LIBXL, LIBXC = "xl", "libxl", "libxc"
"""The layers: xl's own messages, the libxl stream, the libxc stream inside it."""

LAYERS = (XL, LIBXL, LIBXC)

_PV, _HVM = ("x86_pv",), ("x86_hvm",)

FORWARD, BACK = "forward", "back"
"""The directions: primary (migration source) to secondary (target), and the back channel."""

DIRECTIONS = (FORWARD, BACK)

PRIMARY, SECONDARY = "primary", "secondary"

SENDER = MappingProxyType({FORWARD: PRIMARY, BACK: SECONDARY})
"""Who writes a direction."""

BIG, NATIVE = "big", "native"
"""Byte-order rules: always big-endian, or the order that the stream's own header announces."""

U8, U16, U32, U64 = "u8", "u16", "u32", "u64"
ARRAY, BLOB, PAGES, TEXT, STRINGS = "array", "blob", "pages", "text", "strings"
"""Field types: integers; an array of words or of groups; octets without known structure; one page
of guest memory for each PFN that carries data; characters; NUL-terminated strings."""

WIDTH = MappingProxyType({U8: 1, U16: 2, U32: 4, U64: 8})
"""Octets of each integer type."""

REST = "rest"
"""`Field.count`: as many items as the body still holds."""

ALIGNMENT = 8
"""Records are padded with zeros to a multiple of this many octets (REC_ALIGN)."""

BODY_LENGTH_MAX = 128 << 20
"""libxc refuses longer bodies (REC_LENGTH_MAX in xg_sr_stream_format.h)."""

OPTIONAL = 0x80000000
"""A type with this bit is optional: a reader may skip it (REC_TYPE_OPTIONAL)."""

MEMORY, CPU, DEVICE, CONFIG, PFNS, HARDWARE = "memory", "cpu", "device", "config", "pfns", "hardware"

CONTENTS = MappingProxyType({
    MEMORY: "page contents", CPU: "registers of VCPUs", DEVICE: "state of emulated devices, xenstore",
    CONFIG: "the domain's configuration", PFNS: "which pages", HARDWARE: "what the guest's hardware is: "
    "HVM parameters, TSC, CPUID and MSR policies"})
"""Whose data a field holds (`Field.content`)."""

SECRETS, SHAREABLE = (MEMORY, CPU, DEVICE, CONFIG), (PFNS, HARDWARE)
"""Contents that are the guest's own business; those that tell nothing of what it works on."""


@dataclass(frozen=True, slots=True, eq=False)
class Bits:
    """A group of bits inside an integer: `low` to `high` inclusive, bit 0 the least significant."""

    name: str
    low: int
    high: int
    meaning: str = ""
    enum: Mapping[int, str] = field(default_factory=dict)
    reserved: bool = False

    @property
    def mask(self) -> int:
        return ((1 << (self.high - self.low + 1)) - 1) << self.low

    def of(self, word: int) -> int:
        """The value of these bits in `word`."""
        return (word & self.mask) >> self.low


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One field of a structure.

    `size` is a number of octets or the name of the field that gives it (text, blob); `count` the
    name of the field that counts the items of an array, or `REST`.  `legal` holds every allowed
    value (a range or a tuple); empty means any.  Reserved fields are zero when written and ignored
    when read.
    """

    name: str
    type: str
    meaning: str = ""
    unit: str = ""
    order: str = NATIVE
    enum: Mapping[int, str] = field(default_factory=dict)
    bits: tuple[Bits, ...] = ()
    legal: range | tuple[int, ...] = ()
    sizes: range | tuple[int, ...] = ()
    """Every allowed number of items (array) or of octets (blob) where that is limited."""
    reserved: bool = False
    size: int | str = 0
    count: str = ""
    items: tuple[Field, ...] = ()
    content: str = ""
    """Whose data this is, for tools that remove secrets: one of `CONTENTS`; "": of the protocol."""
    xen: str = ""

    width: int = field(init=False, default=0)
    """Octets on the wire where that is fixed, else 0; of an array: octets of one item."""

    def __post_init__(self) -> None:
        if self.type in WIDTH:
            width = WIDTH[self.type]
        elif self.type == ARRAY:
            width = sum(item.width for item in self.items)
        else:
            width = self.size if isinstance(self.size, int) else 0
        object.__setattr__(self, "width", width)


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """A header, a text or a record of one layer.

    `type` is the record number, None for headers and texts; those begin with `magic` (a header
    without one is recognised by its place alone).  The body of a record is `fields`; common record
    headers are described by `RECORD_HEADER`.
    """

    layer: str
    name: str
    meaning: str
    fields: tuple[Field, ...] = ()
    type: int | None = None
    magic: bytes = b""
    senders: tuple[str, ...] = (PRIMARY,)
    section: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()
    guests: tuple[str, ...] = ("x86_pv", "x86_hvm")
    versions: tuple[int, ...] = ()
    """libxc stream versions in which the record may appear; empty: all."""
    may_be_empty: bool = False
    """Known erratum: Xen 4.6 to 4.8 may send it with nothing behind its fixed fields; tolerate that."""
    deprecated: bool = False
    """No released Xen reads it."""
    length_field: str = ""
    """Of a header with variable length: the field that tells how many octets follow it."""
    order_field: str = ""
    """The field that announces the byte order, of the header itself or of what follows it."""

    @property
    def full_name(self) -> str:
        return f"{self.layer}.{self.name}"

    def __repr__(self) -> str:
        return f"<Structure {self.full_name}>"


def _reserved(name: str, type: str, order: str = NATIVE, xen: str = "") -> Field:
    return Field(name, type, "zero when written, ignored when read", order=order,
                 legal=(0,), reserved=True, xen=xen)


RECORD_HEADER = (
    Field("type", U32, "record number; bit 31: optional"),
    Field("body_length", U32, "octets of the body, without padding", "octets",
          legal=range(BODY_LENGTH_MAX + 1), xen="length"),
)
"""In front of every record of libxl and libxc (struct libxl__sr_rec_hdr, struct xc_sr_rhdr)."""

# --- xl's own layer (tools/xl/xl.h, tools/xl/xl_migrate.c) ------------------------------------

XL_BYTE_ORDER_MARK = 0x01020304

BANNER = Structure(
    XL, "BANNER", "the receiver is up and waits for domain data",
    (Field("text", TEXT, "fixed text, no NUL behind it", size=54),),
    magic=b"xl migration receiver ready, send binary domain data.\n",
    senders=(SECONDARY,), section="xl", source="tools/xl/xl.h: migrate_receiver_banner")

XL_HEADER = Structure(
    XL, "HEADER", "xl's header with the domain's configuration",
    (Field("magic", TEXT, "fixed text with a NUL and line ends in it", size=32),
     Field("byteorder", U32, "written in the sender's own byte order, which it so announces",
           legal=(XL_BYTE_ORDER_MARK,)),
     Field("mandatory_flags", U32, "unknown flags: the receiver refuses", bits=(
         Bits("json", 0, 0, "the configuration is JSON"),
         Bits("stream_v2", 1, 1, "a libxl stream (migration v2) follows"),
         Bits("reserved", 2, 31, reserved=True))),
     Field("optional_flags", U32, "none is defined", bits=(Bits("reserved", 0, 31, reserved=True),)),
     Field("optional_data_len", U32, "octets of what follows", "octets"),
     Field("config_length", U32, "octets of the configuration", "octets"),
     Field("config", TEXT, "the domain's configuration", size="config_length", content=CONFIG),
     Field("extra", BLOB, "data of a newer xl; skip", content=CONFIG)),
    magic=b"Xen saved domain, xl format\n \0 \r", section="xl",
    source="tools/xl/xl.h: struct save_file_header", length_field="optional_data_len",
    order_field="byteorder")

READY_TEXT = Structure(
    XL, "READY_TEXT", "the domain has arrived and is ready to be unpaused",
    (Field("text", TEXT, "fixed text and its NUL", size=34),),
    magic=b"domain received, ready to unpause\0", senders=(SECONDARY,), section="xl",
    source="tools/xl/xl.h: migrate_receiver_ready")

GO_MESSAGE = Structure(
    XL, "GO_MESSAGE", "the other end now owns the domain and may unpause it "
    "(on the back channel: the target failed and gives it back)",
    (Field("text", TEXT, "fixed text and its NUL", size=44),),
    magic=b"domain is yours, you are cleared to unpause\0", senders=(PRIMARY, SECONDARY),
    section="xl", source="tools/xl/xl.h: migrate_permission_to_go")

REPORT_STATUS = Field(
    "status", U8, "0: the domain runs on the target; else it failed there", xen="rc_buf")

REPORT = Structure(
    XL, "REPORT", "how the unpausing went",
    (Field("text", TEXT, "fixed text and its NUL", size=39),
     REPORT_STATUS),
    magic=b"my copy unpause results are as follows\0", senders=(SECONDARY,), section="xl",
    source="tools/xl/xl.h: migrate_report")

# --- libxl stream (tools/libs/light/libxl_sr_stream_format.h) ---------------------------------

_LIGHT = "tools/libs/light/libxl_sr_stream_format.h: "

ENDIAN_BIT = Bits("big_endian", 0, 0, "the records are big-endian")

LIBXL_HEADER = Structure(
    LIBXL, "HEADER", "start of the libxl stream",
    (Field("ident", U64, '"LibxlFmt"', order=BIG, legal=(0x4C6962786C466D74,)),
     Field("version", U32, "version of the libxl stream", order=BIG, legal=(2,)),
     Field("options", U32, order=BIG, bits=(
         ENDIAN_BIT, Bits("legacy", 1, 1, "converted from a legacy stream"),
         Bits("reserved", 2, 31, reserved=True)))),
    magic=b"LibxlFmt", section="libxl: Header", source=_LIGHT + "libxl__sr_hdr",
    order_field="options")

_EMULATOR = (
    Field("emulator_id", U32, "which emulator", enum={
        0: "unknown (legacy stream)", 1: "QEMU traditional", 2: "QEMU upstream"}, legal=(0, 1, 2),
        xen="id"),
    Field("index", U32, "index of this emulator for the domain"),
)

SYNC_POINT_NAMES = {0: "CHECKPOINT_NEW", 1: "CHECKPOINT_SVM_SUSPENDED", 2: "CHECKPOINT_SVM_READY",
                    3: "CHECKPOINT_SVM_RESUMED"}

LIBXL_END = Structure(
    LIBXL, "END", "end of the stream", type=0x00000000,
    section="libxl: END", source=_LIGHT + "REC_TYPE_END")
LIBXC_CONTEXT = Structure(
    LIBXL, "LIBXC_CONTEXT", "the stream is handed to libxc", type=0x00000001,
    section="libxl: LIBXC_CONTEXT", source=_LIGHT + "REC_TYPE_LIBXC_CONTEXT")
EMULATOR_XENSTORE_DATA = Structure(
    LIBXL, "EMULATOR_XENSTORE_DATA", "xenstore keys and values of one emulator",
    (*_EMULATOR, Field("pairs", STRINGS, "key, value, key, value, each ended by a NUL",
                       content=DEVICE)),
    type=0x00000002, section="libxl: EMULATOR_XENSTORE_DATA",
    source=_LIGHT + "libxl__sr_emulator_hdr", guests=_HVM)
EMULATOR_CONTEXT = Structure(
    LIBXL, "EMULATOR_CONTEXT", "device state, in the emulator's own format",
    (*_EMULATOR, Field("emulator_ctx", BLOB, "opaque (QEMU's own starts with QEVM)",
                       content=DEVICE)),
    type=0x00000003, section="libxl: EMULATOR_CONTEXT", source=_LIGHT + "libxl__sr_emulator_hdr",
    guests=_HVM)
CHECKPOINT_END = Structure(
    LIBXL, "CHECKPOINT_END", "end of a checkpoint", type=0x00000004,
    section="libxl: CHECKPOINT_END", source=_LIGHT + "REC_TYPE_CHECKPOINT_END")
CONTROL_ID = Field("control_id", U32, "which sync-point", enum=SYNC_POINT_NAMES, legal=range(4),
                   xen="id")
CHECKPOINT_STATE = Structure(
    LIBXL, "CHECKPOINT_STATE", "a sync-point of COLO", (CONTROL_ID,),
    type=0x00000005, senders=(PRIMARY, SECONDARY), section="libxl: CHECKPOINT_STATE",
    source=_LIGHT + "libxl_sr_checkpoint_state", aliases=("COLO_CONTEXT",), guests=_HVM)

# --- libxc stream (tools/libs/guest/xg_sr_stream_format.h) ------------------------------------

_GUEST = "tools/libs/guest/xg_sr_stream_format.h: "

LIBXC_VERSION = Field("version", U32, "version of the libxc stream; 2: Xen 4.6 to 4.13, 3: since 4.14",
                      order=BIG, legal=(2, 3))
IMAGE_HEADER = Structure(
    LIBXC, "IMAGE_HEADER", "start of the libxc stream",
    (Field("marker", U64, "all ones: not a legacy image", order=BIG, legal=(0xFFFFFFFFFFFFFFFF,)),
     Field("id", U32, '"XENF"', order=BIG, legal=(0x58454E46,)),
     LIBXC_VERSION,
     Field("options", U16, order=BIG, bits=(ENDIAN_BIT, Bits("reserved", 1, 15, reserved=True))),
     _reserved("reserved1", U16, BIG, "_res1"), _reserved("reserved2", U32, BIG, "_res2")),
    magic=b"\xff\xff\xff\xff\xff\xff\xff\xffXENF", section="libxc: Image Header",
    source=_GUEST + "struct xc_sr_ihdr", order_field="options")

GUEST_TYPES = {1: "x86_pv", 2: "x86_hvm"}

GUEST_TYPE = Field("type", U32, "guest type", enum=GUEST_TYPES, legal=(1, 2))
PAGE_SHIFT = Field("page_shift", U16, "a page has 1 << page_shift octets", legal=(12,))
PAGE_SIZE = 1 << PAGE_SHIFT.legal[0]
"""Octets of a page: there is one legal shift."""
XEN_MAJOR = Field("xen_major", U32, "Xen's version; 0: written by the legacy converter")
XEN_MINOR = Field("xen_minor", U32, "Xen's version; of the legacy converter: its own")

DOMAIN_HEADER = Structure(
    LIBXC, "DOMAIN_HEADER", "what kind of guest, saved by which Xen",
    (GUEST_TYPE, PAGE_SHIFT, _reserved("reserved", U16, xen="_res1"), XEN_MAJOR, XEN_MINOR),
    section="libxc: Domain Header", source=_GUEST + "struct xc_sr_dhdr")

PFN_TYPES = {
    0x0: "NOTAB", 0x1: "L1TAB", 0x2: "L2TAB", 0x3: "L3TAB", 0x4: "L4TAB",
    0x9: "L1TAB_PIN", 0xA: "L2TAB_PIN", 0xB: "L3TAB_PIN", 0xC: "L4TAB_PIN",
    0xD: "BROKEN", 0xE: "XALLOC", 0xF: "XTAB"}
"""XEN_DOMCTL_PFINFO_* of xen/include/public/domctl.h, shifted; 0x5 to 0x8 are reserved."""

PFN_TYPES_WITHOUT_PAGE = (0xD, 0xE, 0xF)

PFN_TYPE = Bits("type", 60, 63, "what kind of page", enum=PFN_TYPES)
PFN_RESERVED = Bits("reserved", 52, 59, reserved=True)
PFN = Bits("pfn", 0, 51, "guest page frame number")

_PFN_WORD = Field("pfn", U64, "PFN and its type", bits=(PFN_TYPE, PFN_RESERVED, PFN))


def _vcpu(sizes: range | tuple[int, ...]) -> tuple[Field, ...]:
    return (Field("vcpu_id", U32, "which VCPU"), _reserved("reserved", U32, xen="_res1"),
            Field("context", BLOB, "opaque, read and written by Xen's domctls", sizes=sizes,
                  content=CPU))


TSC_MODES = {0: "default", 1: "always emulate", 2: "never emulate", 3: "native paravirt"}

HVM_PARAM_NAMES = {
    0: "CALLBACK_IRQ", 1: "STORE_PFN", 2: "STORE_EVTCHN", 4: "PAE_ENABLED", 5: "IOREQ_PFN",
    6: "BUFIOREQ_PFN", 9: "VIRIDIAN", 10: "TIMER_MODE", 11: "HPET_ENABLED", 12: "IDENT_PT",
    13: "DM_DOMAIN", 14: "ACPI_S_STATE", 15: "VM86_TSS", 16: "VPT_ALIGN", 17: "CONSOLE_PFN",
    18: "CONSOLE_EVTCHN", 19: "ACPI_IOPORTS_LOCATION", 20: "MEMORY_EVENT_CR0",
    21: "MEMORY_EVENT_CR3", 22: "MEMORY_EVENT_CR4", 23: "MEMORY_EVENT_INT3", 24: "NESTEDHVM",
    25: "MEMORY_EVENT_SINGLE_STEP", 26: "BUFIOREQ_EVTCHN", 27: "PAGING_RING_PFN",
    28: "MONITOR_RING_PFN", 29: "SHARING_RING_PFN", 30: "MEMORY_EVENT_MSR",
    31: "TRIPLE_FAULT_REASON", 32: "IOREQ_SERVER_PFN", 33: "NR_IOREQ_SERVER_PAGES",
    34: "VM_GENERATION_ID_ADDR", 35: "ALTP2M", 36: "X87_FIP_WIDTH", 37: "VM86_TSS_SIZED",
    38: "MCA_CAP"}
"""HVM_PARAM_* of xen/include/public/hvm/params.h."""

LIBXC_END = Structure(
    LIBXC, "END", "end of the image; the stream goes back to libxl", type=0x00000000,
    section="libxc: END", source=_GUEST + "REC_TYPE_END")
PAGE_DATA = Structure(
    LIBXC, "PAGE_DATA", "a batch of guest pages",
    (Field("count", U32, "number of PFNs", legal=range(1, 1 << 32)),
     _reserved("reserved", U32, xen="_res1"),
     Field("pfn", ARRAY, "PFNs and their types", count="count", items=(_PFN_WORD,), content=PFNS),
     Field("page_data", PAGES, "one page for each PFN whose type carries data", count="pfn",
           content=MEMORY)),
    type=0x00000001, section="libxc: PAGE_DATA", source=_GUEST + "struct xc_sr_rec_page_data_header")
GUEST_WIDTH = Field("guest_width", U8, "width of the guest", "octets", legal=(4, 8))
PT_LEVELS = Field("pt_levels", U8, "levels of page tables", legal=(3, 4))
PV_SHAPES = ((4, 3), (8, 4))
"""Every pair of guest_width and pt_levels that exists."""
X86_PV_INFO = Structure(
    LIBXC, "X86_PV_INFO", "shape of a PV guest",
    (GUEST_WIDTH, PT_LEVELS,
     _reserved("reserved1", U16, xen="_res"), _reserved("reserved2", U32, xen="_res")),
    type=0x00000002, section="libxc: X86_PV_INFO", source=_GUEST + "struct xc_sr_rec_x86_pv_info",
    guests=_PV)
P2M_START = Field("start_pfn", U32, "first index in the P2M array")
P2M_END = Field("end_pfn", U32, "last index in the P2M array")
X86_PV_P2M_FRAMES = Structure(
    LIBXC, "X86_PV_P2M_FRAMES", "where the guest's P2M table is",
    (P2M_START, P2M_END,
     Field("p2m_pfn", ARRAY, "PFNs of the P2M's frames", count=REST,
           items=(Field("p2m_pfn", U64, "PFN"),), content=PFNS, xen="p2m_pfns",
           sizes=range(1, BODY_LENGTH_MAX))),
    type=0x00000003, section="libxc: X86_PV_P2M_FRAMES",
    source=_GUEST + "struct xc_sr_rec_x86_pv_p2m_frames", guests=_PV)
X86_PV_VCPU_BASIC = Structure(
    LIBXC, "X86_PV_VCPU_BASIC", "VCPU state (XEN_DOMCTL_getvcpucontext)", _vcpu((2800, 5168)),
    type=0x00000004, section="libxc: X86_PV_VCPU_BASIC",
    source=_GUEST + "struct xc_sr_rec_x86_pv_vcpu_hdr", guests=_PV)
X86_PV_VCPU_EXTENDED = Structure(
    LIBXC, "X86_PV_VCPU_EXTENDED", "VCPU state (XEN_DOMCTL_get_ext_vcpucontext)", _vcpu(range(1, 129)),
    type=0x00000005, section="libxc: X86_PV_VCPU_BASIC",
    source=_GUEST + "struct xc_sr_rec_x86_pv_vcpu_hdr", guests=_PV, may_be_empty=True)
X86_PV_VCPU_XSAVE = Structure(
    LIBXC, "X86_PV_VCPU_XSAVE", "VCPU state (XEN_DOMCTL_getvcpuextstate)",
    _vcpu(range(16, BODY_LENGTH_MAX)), type=0x00000006, section="libxc: X86_PV_VCPU_BASIC",
    source=_GUEST + "struct xc_sr_rec_x86_pv_vcpu_hdr", guests=_PV, may_be_empty=True)
SHARED_INFO = Structure(
    LIBXC, "SHARED_INFO", "the shared info page",
    (Field("shared_info", BLOB, "one page", sizes=(PAGE_SIZE,), content=MEMORY),), type=0x00000007,
    section="libxc: SHARED_INFO", source=_GUEST + "REC_TYPE_SHARED_INFO", guests=_PV)
X86_TSC_INFO = Structure(
    LIBXC, "X86_TSC_INFO", "time stamp counter of the guest",
    (Field("mode", U32, "TSC mode", enum=TSC_MODES, legal=range(4), content=HARDWARE),
     Field("khz", U32, "TSC frequency", "kHz", content=HARDWARE),
     Field("nsec", U64, "elapsed time", "ns", content=HARDWARE),
     Field("incarnation", U32, "incarnation", content=HARDWARE), _reserved("reserved", U32, xen="_res1")),
    type=0x00000008, section="libxc: X86_TSC_INFO", source=_GUEST + "struct xc_sr_rec_x86_tsc_info")
HVM_CONTEXT = Structure(
    LIBXC, "HVM_CONTEXT", "architectural state of an HVM guest",
    (Field("hvm_ctx", BLOB, "Xen's hvm_save records", sizes=range(1, BODY_LENGTH_MAX),
           content=CPU),), type=0x00000009,
    section="libxc: HVM_CONTEXT", source=_GUEST + "REC_TYPE_HVM_CONTEXT", guests=_HVM)
HVM_PARAMS = Structure(
    LIBXC, "HVM_PARAMS", "HVM parameters",
    (Field("count", U32, "number of parameters"), _reserved("reserved", U32, xen="_res1"),
     Field("param", ARRAY, "parameters", count="count", items=(
         Field("index", U64, "which parameter", enum=HVM_PARAM_NAMES),
         Field("value", U64, "its value")), content=HARDWARE)),
    type=0x0000000A, section="libxc: HVM_PARAMS", source=_GUEST + "struct xc_sr_rec_hvm_params",
    guests=_HVM, may_be_empty=True)
TOOLSTACK = Structure(
    LIBXC, "TOOLSTACK", "deprecated",
    (Field("data", BLOB, "opaque data of the toolstack", content=DEVICE),), type=0x0000000B,
    section="libxc: TOOLSTACK (deprecated)", source=_GUEST + "REC_TYPE_TOOLSTACK",
    deprecated=True)
X86_PV_VCPU_MSRS = Structure(
    LIBXC, "X86_PV_VCPU_MSRS", "VCPU state (XEN_DOMCTL_get_vcpu_msrs)",
    _vcpu(range(16, BODY_LENGTH_MAX, 16)), type=0x0000000C, section="libxc: X86_PV_VCPU_BASIC",
    source=_GUEST + "struct xc_sr_rec_x86_pv_vcpu_hdr", guests=_PV, may_be_empty=True)
VERIFY = Structure(
    LIBXC, "VERIFY", "all memory is sent; what follows repeats it for debugging", type=0x0000000D,
    section="libxc: VERIFY", source=_GUEST + "REC_TYPE_VERIFY")
CHECKPOINT = Structure(
    LIBXC, "CHECKPOINT", "what precedes is one consistent state; back to libxl", type=0x0000000E,
    section="libxc: CHECKPOINT", source=_GUEST + "REC_TYPE_CHECKPOINT")
CHECKPOINT_DIRTY_PFN_LIST = Structure(
    LIBXC, "CHECKPOINT_DIRTY_PFN_LIST", "pages that the secondary has dirtied",
    (Field("pfn", ARRAY, "unordered PFNs", count=REST, items=(
        Field("pfn", U64, "guest page frame number", legal=range(1 << 52)),), content=PFNS),),
    type=0x0000000F, senders=(SECONDARY,), section="libxc: CHECKPOINT_DIRTY_PFN_LIST",
    source="tools/libs/guest/xg_sr_restore.c: send_checkpoint_dirty_pfn_list", guests=_HVM)
STATIC_DATA_END = Structure(
    LIBXC, "STATIC_DATA_END", "end of the data that guest execution never changes",
    type=0x00000010, section="libxc: STATIC_DATA_END",
    source=_GUEST + "REC_TYPE_STATIC_DATA_END", versions=(3,))
X86_CPUID_POLICY = Structure(
    LIBXC, "X86_CPUID_POLICY", "CPUID policy of the guest",
    (Field("leaves", ARRAY, "xen_cpuid_leaf_t", count=REST, items=tuple(
        Field(name, U32, meaning) for name, meaning in (
            ("leaf", "CPUID leaf"), ("subleaf", "CPUID subleaf, all ones: none"), ("a", "EAX"),
            ("b", "EBX"), ("c", "ECX"), ("d", "EDX"))), content=HARDWARE, xen="CPUID_policy",
           sizes=range(1, BODY_LENGTH_MAX)),),
    type=0x00000011, section="libxc: X86_CPUID_POLICY",
    source="xen/include/public/arch-x86/xen.h: xen_cpuid_leaf_t", versions=(3,))
X86_MSR_POLICY = Structure(
    LIBXC, "X86_MSR_POLICY", "MSR policy of the guest",
    (Field("entries", ARRAY, "xen_msr_entry_t", count=REST, items=(
        Field("idx", U32, "MSR"), _reserved("flags", U32), Field("val", U64, "its value")),
        content=HARDWARE, xen="MSR_policy", sizes=range(1, BODY_LENGTH_MAX)),),
    type=0x00000012, section="libxc: X86_MSR_POLICY",
    source="xen/include/public/arch-x86/xen.h: xen_msr_entry_t", versions=(3,))

STRUCTURES: tuple[Structure, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Structure))
"""Everything that can stand on the wire."""

RECORDS: Mapping[str, Mapping[int, Structure]] = MappingProxyType({
    layer: MappingProxyType({s.type: s for s in STRUCTURES
                             if s.layer == layer and s.type is not None})
    for layer in LAYERS})
"""Layer -> record number -> structure."""

DIRTY_LIST_EXCESS = 8
"""Xen 4.18 and later (commit efe8de1f91) write sizeof(struct xc_sr_record), 16 octets, in front of
a CHECKPOINT_DIRTY_PFN_LIST: 8 zero octets follow the header that its length does not count."""

# --- who speaks when: the hand-over rules -----------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What a direction may carry next.

    `fixed`: headers and texts that may come now.  `shapes`: records of another layer that are told
    from the layer's own by type and exact length.  `layer`: whose records come otherwise ("" for
    none; then only `records` may come).  `then`: the state behind a structure, `otherwise` behind
    every other one (itself if empty).
    """

    name: str
    direction: str
    meaning: str
    fixed: tuple[Structure, ...] = ()
    shapes: tuple[Structure, ...] = ()
    layer: str = ""
    records: tuple[Structure, ...] = ()
    then: tuple[tuple[Structure, str], ...] = ()
    otherwise: str = ""
    final: bool = False
    """Everything has been said: the stream may end here."""

    def behind(self, structure: Structure | None) -> State:
        """The state behind a structure."""
        name = next((name for behind, name in self.then if behind is structure), self.otherwise)
        return STATES[name or self.name]

    def numbered(self, number: int) -> tuple[Structure, ...]:
        """The records with this number that may come, the layer's own last."""
        own = RECORDS[self.layer].get(number) if self.layer else None
        return (*(s for s in (*self.shapes, *self.records) if s.type == number), *((own,) if own else ()))


STATES: Mapping[str, State] = MappingProxyType({state.name: state for state in (
    State("start", FORWARD, "nothing has been sent",
          fixed=(XL_HEADER, LIBXL_HEADER, IMAGE_HEADER),
          then=((XL_HEADER, "libxl header"), (LIBXL_HEADER, "libxl"),
                (IMAGE_HEADER, "bare domain header"))),
    State("libxl header", FORWARD, "xl has handed the stream to libxl", fixed=(LIBXL_HEADER,),
          then=((LIBXL_HEADER, "libxl"),)),
    State("libxl", FORWARD, "libxl writes", layer=LIBXL,
          then=((LIBXC_CONTEXT, "image header"), (CHECKPOINT_END, "checkpoint end"),
                (LIBXL_END, "end"))),
    State("image header", FORWARD, "libxl has handed the stream to libxc", fixed=(IMAGE_HEADER,),
          then=((IMAGE_HEADER, "domain header"),)),
    State("domain header", FORWARD, "libxc has written its image header", fixed=(DOMAIN_HEADER,),
          then=((DOMAIN_HEADER, "libxc"),)),
    State("libxc", FORWARD, "libxc writes", shapes=(CHECKPOINT_STATE,), layer=LIBXC,
          then=((LIBXC_END, "libxl"), (CHECKPOINT, "libxl"))),
    State("checkpoint end", FORWARD,
          "Remus: libxc writes on; COLO: one CHECKPOINT_STATE, then libxc writes on",
          shapes=(CHECKPOINT_STATE,), layer=LIBXC, otherwise="libxc",
          then=((LIBXC_END, "libxl"), (CHECKPOINT, "libxl"))),
    State("bare domain header", FORWARD, "libxc writes without a libxl around it",
          fixed=(DOMAIN_HEADER,), then=((DOMAIN_HEADER, "bare libxc"),)),
    State("bare libxc", FORWARD, "libxc writes without a libxl around it", layer=LIBXC,
          then=((LIBXC_END, "closed"),)),
    State("end", FORWARD, "libxl has ended its stream", fixed=(GO_MESSAGE,), otherwise="closed",
          final=True),
    State("back start", BACK, "nothing has been sent", fixed=(BANNER, READY_TEXT),
          records=(CHECKPOINT_STATE, CHECKPOINT_DIRTY_PFN_LIST), otherwise="back",
          then=((READY_TEXT, "report"),)),
    State("back", BACK, "the secondary answers", fixed=(READY_TEXT,),
          records=(CHECKPOINT_STATE, CHECKPOINT_DIRTY_PFN_LIST),
          then=((READY_TEXT, "report"),)),
    State("report", BACK, "the secondary waits for its permission", fixed=(REPORT,),
          otherwise="given back"),
    State("given back", BACK, "the unpausing may have failed: the domain is given back",
          fixed=(GO_MESSAGE,), otherwise="closed back", final=True),
    State("closed", FORWARD, "nothing may follow", final=True),
    State("closed back", BACK, "nothing may follow", final=True),
)})
"""The state table of both directions.  Where a forward record could be CHECKPOINT_STATE or libxc's
record of the same number, length decides: libxc's has at least 8 octets (or none)."""

START = MappingProxyType({FORWARD: "start", BACK: "back start"})

OPENINGS = MappingProxyType({
    FORWARD: tuple(s.magic for s in STATES["start"].fixed), BACK: (BANNER.magic,)})
"""Octets at the start of a TCP stream that prove which direction it is."""

LANDMARKS: Mapping[tuple[str, str], str] = MappingProxyType({
    (FORWARD, LIBXL): "libxl", (FORWARD, LIBXC): "libxc"})
"""(direction, layer) -> the state in which a record of that layer may be read when nothing of what
precedes it is known."""

SYNC_LANDMARKS: Mapping[str, str] = MappingProxyType({FORWARD: "checkpoint end", BACK: "back"})
"""The same for a sync-point, by direction."""

HEADER_LANDMARKS: Mapping[Structure, str] = MappingProxyType({
    XL_HEADER: "start", LIBXL_HEADER: "libxl header", IMAGE_HEADER: "image header", BANNER: "back start"})
"""The same for headers and texts that are told by their magic."""

PAUSES = (CHECKPOINT_STATE, CHECKPOINT_END, LIBXL_END)
"""Behind these the primary waits: what comes next stands at the start of a segment."""

# --- which records depend on each other -------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """In streams of these guests and libxc versions (empty: all) `earlier` has come before each of
    `later` comes; or, where it is `optional`, does not come behind one of them."""

    earlier: Structure
    later: tuple[Structure, ...]
    section: str
    guests: tuple[str, ...] = ()
    versions: tuple[int, ...] = ()
    optional: bool = False


_VCPUS = (X86_PV_VCPU_BASIC, X86_PV_VCPU_EXTENDED, X86_PV_VCPU_XSAVE, X86_PV_VCPU_MSRS)
_WHOLE = (CHECKPOINT, LIBXC_END)

ORDERS = (
    Order(STATIC_DATA_END, (X86_PV_P2M_FRAMES, PAGE_DATA, X86_TSC_INFO, SHARED_INFO, *_VCPUS,
                            HVM_CONTEXT, HVM_PARAMS), "libxc: v3 compat with v2", versions=(3,)),
    *(Order(static, (STATIC_DATA_END,), "libxc: STATIC_DATA_END", optional=True)
      for static in (X86_CPUID_POLICY, X86_MSR_POLICY)),
    *(Order(earlier, later, "libxc: x86 PV Guest", guests=_PV) for earlier, later in (
        (X86_PV_INFO, (STATIC_DATA_END, X86_PV_P2M_FRAMES, PAGE_DATA, SHARED_INFO, *_VCPUS, *_WHOLE)),
        (X86_PV_P2M_FRAMES, (PAGE_DATA, *_VCPUS, *_WHOLE)), (PAGE_DATA, (*_VCPUS, *_WHOLE)),
        (X86_PV_VCPU_BASIC, _WHOLE))),
)
"""The specification also wants HVM_PARAMS in front of HVM_CONTEXT; every Xen writes them the other
way round, and none minds: what depends on them waits for the end of the stream."""

ONCE = (LIBXC_CONTEXT, X86_PV_INFO, STATIC_DATA_END)
"""Records of which a stream has one at most."""

NOT_INSIDE = (LIBXC_CONTEXT, LIBXL_END)
"""Records of libxl that do not come between CHECKPOINT and CHECKPOINT_END."""

# --- sync-points and phases -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SyncPoint:
    """One sync-point: who sends it and which may legally follow (the first is the usual one)."""

    control_id: int
    name: str
    sender: str
    successors: tuple[str, ...]
    meaning: str

    @property
    def short_name(self) -> str:
        return self.name.removeprefix("CHECKPOINT_")


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a phase ends: the `edge` ("delivered" or "first_seen") of the first or last record in a
    checkpoint that matches, or ("next") of the one that opens the next checkpoint."""

    phase: str
    direction: str
    edge: str
    pick: str
    structure: Structure | None = None
    """None: any record."""
    control_id: int | None = None
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A checkpointing protocol as data: a second one is a second table."""

    name: str
    sync_points: tuple[SyncPoint, ...]
    opens_checkpoint: str
    closes_checkpoint: str
    first: tuple[str, ...]
    """Legal first sync-points of a connection: the first boot."""
    boundaries: tuple[Boundary, ...]
    inside: tuple[Structure, Structure]
    """No sync-point may pass between these two forward records."""

    def named(self, short_name: str) -> SyncPoint:
        return next(s for s in self.sync_points if s.short_name == short_name)

    def numbered(self, control_id: int | None) -> SyncPoint | None:
        return next((s for s in self.sync_points if s.control_id == control_id), None)

    def transitions(self) -> tuple[tuple[str, str], ...]:
        """Every legal (from, to), by short names."""
        return tuple((s.short_name, t) for s in self.sync_points for t in s.successors)


_TRANSFER = (
    Boundary("memory", FORWARD, "delivered", "last", PAGE_DATA, None, "pages pass"),
    Boundary("cpu", FORWARD, "delivered", "first", CHECKPOINT, None, "CPU state passes"),
    Boundary("device", FORWARD, "delivered", "first", CHECKPOINT_END, None, "the emulator's state passes"),
)
"""The phases that an epoch of Remus shares with COLO's checkpoints."""

XEN_COLO = Dialect(
    "xen", (
        SyncPoint(0, SYNC_POINT_NAMES[0], PRIMARY, ("SVM_SUSPENDED",),
                  "the VMs differ or the period is over: start a new checkpoint"),
        SyncPoint(1, SYNC_POINT_NAMES[1], SECONDARY, ("SVM_READY", "SVM_RESUMED"),
                  "the secondary's VM is suspended (series of 2015: RESUMED may follow at once)"),
        SyncPoint(2, SYNC_POINT_NAMES[2], SECONDARY, ("SVM_RESUMED",),
                  "the state is loaded, the secondary is ready to resume"),
        SyncPoint(3, SYNC_POINT_NAMES[3], SECONDARY, ("NEW",), "the secondary's VM runs"),
    ),
    opens_checkpoint="NEW", closes_checkpoint="SVM_RESUMED", first=("SVM_READY",),
    boundaries=(
        Boundary("suspend", BACK, "delivered", "first", CHECKPOINT_STATE, 1,
                 "the primary waits until the secondary's VM is suspended"),
        Boundary("list", BACK, "delivered", "first", CHECKPOINT_DIRTY_PFN_LIST, None,
                 "the secondary lists the pages that it has dirtied"),
        Boundary("merge", FORWARD, "first_seen", "first", None, None,
                 "the primary merges both dirty maps"),
        *_TRANSFER,
        Boundary("load", BACK, "delivered", "first", CHECKPOINT_STATE, 2,
                 "the secondary loads the state"),
        Boundary("resume", BACK, "delivered", "first", CHECKPOINT_STATE, 3,
                 "the secondary's VM resumes"),
        Boundary("lockstep", FORWARD, "delivered", "next", CHECKPOINT_STATE, 0,
                 "both VMs run and are compared, until the next checkpoint begins"),
    ),
    inside=(CHECKPOINT, CHECKPOINT_END))
"""COLO as Xen 4.7 and later speak it.  The first phase starts at NEW; each ends where the next
begins."""

PHASES = tuple(boundary.phase for boundary in XEN_COLO.boundaries)

REMUS_BOUNDARIES = (
    *_TRANSFER,
    Boundary("idle", FORWARD, "first_seen", "next", None, None, "the guest runs until the next epoch is sent"),
)
"""The phases of an epoch of Remus.  The first starts at the first octet of the epoch's first record."""

REMUS_PHASES = tuple(boundary.phase for boundary in REMUS_BOUNDARIES)

PLAIN_BOUNDARIES = (
    _TRANSFER[0],
    Boundary("cpu", FORWARD, "delivered", "first", LIBXC_END, None, "CPU state passes"),
    Boundary("device", FORWARD, "delivered", "first", LIBXL_END, None, "the emulator's state passes"),
    Boundary("load", BACK, "delivered", "first", READY_TEXT, None, "the secondary loads the state"),
    Boundary("resume", BACK, "delivered", "first", REPORT, None, "the guest goes on at the secondary"),
)
"""The phases of a live migration.  The first starts at the first octet of the stream; the last two only xl tells."""

# --- the control connection of colo-proxy -------------------------------------------------------

TOOLSTACK_END, PROXY_END = "toolstack", "proxy"
"""Who speaks there: libxl on the primary's host, and the userspace proxy that compares packets (QEMU's
colo-compare)."""


@dataclass(frozen=True, slots=True)
class ProxyMessage:
    """One message: its `text`, behind a length (`PROXY_LENGTH`), and who sends it."""

    text: str
    sender: str
    meaning: str
    source: str


PROXY_LENGTH = Field("length", U32, "octets of the text; a NUL at its end may count", "octets", order=BIG)
PROXY_TEXT_MAX = 1024
"""The toolstack has room for so many octets (recvbuff in libxl_colo_proxy.c)."""

PROXY_OPENS = ProxyMessage("COLO_USERSPACE_PROXY_INIT", TOOLSTACK_END, "opens the conversation",
                           "tools/libs/light/libxl_colo_proxy.c: colo_proxy_setup")
PROXY_ANSWERS = ProxyMessage("COLO_COMPARE_GET_XEN_INIT", PROXY_END, "the proxy is there",
                             "qemu net/colo-compare.c: compare_notify_rs_finalize")
PROXY_ASKS = ProxyMessage("DO_CHECKPOINT", PROXY_END, "packets of the two VMs differ (or wait for too long): start a "
                          "checkpoint", "qemu net/colo-compare.c: notify_remote_frame")
PROXY_IS_TOLD = ProxyMessage("COLO_CHECKPOINT", TOOLSTACK_END, "the state is loaded: forget the packets that wait",
                             "tools/libs/light/libxl_colo_proxy.c: colo_proxy_preresume")
PROXY_MESSAGES = (PROXY_OPENS, PROXY_ANSWERS, PROXY_ASKS, PROXY_IS_TOLD)
"""The toolstack takes one PROXY_ASKS for each checkpoint, in their order; if none comes for 5 s (the period,
COLO_PROXY_CHECKPOINT_TIMEOUT), it starts a checkpoint without."""
