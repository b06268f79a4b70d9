// Package transport carries migrations between hosts: QUIC sessions in which
// both sides have shown certificates, messages on a control stream, memory and
// files on streams of their own, and a bandwidth cap over them.
//
// It alone knows QUIC and the bytes on the wire; docs/protocol.md has their
// layout, and a test compares the two. It knows nothing of what a message
// means.
//
// A [Session] comes from [Dial] or [Listener.Accept] and is good from the first
// moment: the certificates, the allow list and the protocol version have been
// settled. A session is lost as a whole; its context then says why. Nothing
// that a peer sends is trusted: lengths are checked before memory is taken,
// decompression stops at the announced size, and names are single path
// components. What [PageReader] and [FileReader] return before their io.EOF has
// a good form, but only the io.EOF says that all of it arrived as it was sent.
//
// A round of memory is a sequence of batches, numbered from 0. [EncodeBatch],
// or an [Adaptive] that chooses the codec, makes frames of them; [PageStreams]
// sends these over as many streams as asked for, and a [Sequencer] applies them
// in their order. When a session ends, [Broken] says whether to dial again.
//
// Every frame is
//
//	1 byte type, 1 byte flags (0), 4 bytes length of the payload, payload
//
// in big-endian order; see [FrameType].
package transport
