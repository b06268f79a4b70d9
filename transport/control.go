package transport

import (
	"encoding/json"
	"errors"
	"fmt"

	"migrate"
)

// messages has a decoder for every message of the control stream. A type that
// is not here is a protocol error.
var messages = map[FrameType]func([]byte) (Message, error){
	FrameOffer:       decode[Offer],
	FrameAnswer:      decode[Answer],
	FramePrepare:     decode[Prepare],
	FramePrepared:    decode[Prepared],
	FrameClockPing:   decode[ClockPing],
	FrameClockPong:   decode[ClockPong],
	FrameRoundEnd:    decode[RoundEnd],
	FrameRoundAck:    decode[RoundAck],
	FrameRestore:     decode[Restore],
	FrameHeld:        decode[Held],
	FrameCommit:      decode[Commit],
	FrameRunning:     decode[Running],
	FrameRefused:     decode[Refused],
	FrameFinished:    decode[Finished],
	FrameAbort:       decode[Abort],
	FrameAsk:         decode[Ask],
	FrameState:       decode[State],
	FrameVerdict:     decode[Verdict],
	FrameVerdictDone: decode[VerdictDone],
	FrameDrive:       decode[Drive],
	FrameProgress:    decode[Progress],
	FrameCancel:      decode[Cancel],
	FrameStatus:      decode[Status],
	FrameStatusReply: decode[StatusReply],
	FrameResume:      decode[Resume],
	FrameResumed:     decode[Resumed],
	FrameLook:        decode[Look],
	FrameLooked:      decode[Looked],
	FramePassAck:     decode[PassAck],
	FrameDescribe:    decode[Describe],
	FrameDescription: decode[Description],
	FrameReserve:     decode[Reserve],
	FrameReserved:    decode[Reserved],
	FrameCordon:      decode[Cordon],
	FrameCordoned:    decode[Cordoned],
	FrameChange:      decode[Change],
	FrameChanged:     decode[Changed],
	FrameStop:        decode[Stop],
	FrameStopped:     decode[Stopped],
}

func decode[M Message](b []byte) (Message, error) {
	var m M
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if v, ok := any(m).(interface{ validate() error }); ok {
		if err := v.validate(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// An ID from the peer becomes a file name, so it is checked where it comes in.
func (m Prepare) validate() error { return validID(m.ID) }
func (m Ask) validate() error     { return validID(m.ID) }
func (m State) validate() error   { return validID(m.ID) }
func (m Verdict) validate() error { return validID(m.ID) }
func (m Resume) validate() error  { return validID(m.ID) }
func (m Change) validate() error  { return validID(m.ID) }
func (m Reserve) validate() error { return validID(m.Drain) }

func (m Cordon) validate() error { return orNone(m.Drain) }

func (m Describe) validate() error { return orNone(m.Drain) }
func (m Offer) validate() error {
	return errors.Join(validID(m.ID), orNone(m.Drain), fewTrees(len(m.Trees)))
}
func (m Drive) validate() error { return errors.Join(orNone(m.ID), orNone(m.Drain)) }

// orNone accepts an ID, and none.
func orNone(id migrate.ID) error {
	if id == "" {
		return nil
	}
	return validID(id)
}

func (m Resumed) validate() error {
	if m.Round < 0 {
		return fmt.Errorf("round %d", m.Round)
	}
	return nil
}

func validID(id migrate.ID) error {
	_, err := migrate.ParseID(string(id))
	return err
}

// encodeMessage returns the frame of m.
func encodeMessage(m Message) ([]byte, error) {
	payload, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("message %v: %w", m.FrameType(), err)
	}
	if len(payload) > MaxControl {
		return nil, fmt.Errorf("message %v: %d bytes, the limit is %d", m.FrameType(), len(payload), MaxControl)
	}
	frame := make([]byte, 0, headerLen+len(payload))
	frame = header{m.FrameType(), uint32(len(payload))}.appendTo(frame)
	return append(frame, payload...), nil
}

// decodeMessage returns the message of a frame whose length was checked.
func decodeMessage(version uint16, t FrameType, payload []byte) (Message, error) {
	dec, ok := messages[t]
	if !ok || !t.spoken(version) {
		return nil, fmt.Errorf("%w: no %v on the control stream", ErrProtocol, t)
	}
	m, err := dec(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrProtocol, t, err)
	}
	return m, nil
}
