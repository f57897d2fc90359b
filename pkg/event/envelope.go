package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// openEnvelope reads an event in structured mode, in CloudEvents' JSON format, which is the only one that
// the NATS binding has.
func openEnvelope(contentType string, envelope []byte) (attributes map[string]string, data []byte, err error) {
	refuse := func(why string, args ...any) (map[string]string, []byte, error) {
		return nil, envelope, fmt.Errorf("%w: content type %s: %s", ErrNotAnEvent, contentType, fmt.Sprintf(why, args...))
	}
	media, _, _ := strings.Cut(contentType, ";")
	if media = strings.ToLower(strings.TrimSpace(media)); media != structuredType && media != structuredType+"+json" {
		return refuse("only %s+json is read", structuredType)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(envelope, &members); err != nil || members == nil {
		return refuse("the payload is no JSON object")
	}
	attributes = make(map[string]string, len(members))
	for name, value := range members {
		if name == "data" || name == "data_base64" || bytes.Equal(value, []byte("null")) {
			continue
		}
		if !isAttributeName(name) {
			return refuse("%q is not the name of an attribute", name)
		}
		text, ok := attributeText(value)
		if !ok {
			return refuse("attribute %s is no string, number or boolean", name)
		}
		attributes[name] = text
	}
	data, ok := members["data"], true
	inJSON := data != nil && !bytes.Equal(data, []byte("null"))
	encoded := members["data_base64"]
	switch inBase64 := encoded != nil && !bytes.Equal(encoded, []byte("null")); {
	case inJSON && inBase64:
		return refuse("it has data and data_base64")
	case inBase64:
		data = nil
		ok = json.Unmarshal(encoded, &data) == nil
	case !inJSON:
		data = nil
	case attributes[contentTypeAttribute] == "":
		attributes[contentTypeAttribute] = "application/json" // which the format says of data without one
	case !isJSON(attributes[contentTypeAttribute]) && data[0] == '"':
		var text string
		ok = json.Unmarshal(data, &text) == nil
		data = []byte(text)
	}
	if !ok {
		return refuse("data_base64 is no base64")
	}
	return attributes, data, nil
}

// isAttributeName reports whether an attribute of that name has a header. CloudEvents' names are lower-case
// letters and digits.
func isAttributeName(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// attributeText is the canonical string of an attribute's value.
func attributeText(value json.RawMessage) (text string, ok bool) {
	switch value[0] {
	case '"':
		return text, json.Unmarshal(value, &text) == nil
	case '{', '[':
		return "", false
	default:
		return string(value), true
	}
}

// isJSON reports whether a media type is JSON's: its subtype is json, or ends in +json.
func isJSON(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	_, subtype, _ := strings.Cut(strings.ToLower(strings.TrimSpace(media)), "/")
	return subtype == "json" || strings.HasSuffix(subtype, "+json")
}
