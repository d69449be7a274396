// Asks an expander as Cluster Autoscaler does, with Kubernetes' own types on gRPC's own Go client: TLS with an authority and no
// certificate, five seconds. Options and nodes come as JSON on standard input; the groups that are named go to standard output.
// Whatever fails filters no option.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
	v1 "k8s.io/api/core/v1"
)

type question struct {
	URL, Authority string
	// New is how autoscalers for Kubernetes 1.35 and later write pods and nodes: into other fields.
	New     bool
	Options []struct {
		Group string
		Count uint64
		Pods  []v1.Pod
	}
	Nodes map[string]v1.Node
}

// raw passes messages through as bytes.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (raw) Name() string { return "proto" }

func field(into []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(into, number, protowire.BytesType), value)
}

func must(data []byte, err error) []byte {
	if err != nil {
		log.Fatal(err)
	}
	return data
}

func encoded(asked question) []byte {
	pods, nodes := protowire.Number(4), protowire.Number(2)
	if asked.New {
		pods, nodes = 5, 3
	}
	var message []byte
	for _, option := range asked.Options {
		one := field(nil, 1, []byte(option.Group))
		one = protowire.AppendVarint(protowire.AppendTag(one, 2, protowire.VarintType), option.Count)
		for _, pod := range option.Pods {
			one = field(one, pods, must(pod.Marshal()))
		}
		message = field(message, 1, one)
	}
	for group, node := range asked.Nodes {
		message = field(message, nodes, field(field(nil, 1, []byte(group)), 2, must(node.Marshal())))
	}
	return message
}

// fields calls seen with each length-delimited field of a message.
func fields(message []byte, seen func(number protowire.Number, value []byte)) {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		value, _ := protowire.ConsumeBytes(message[size:])
		size += protowire.ConsumeFieldValue(number, kind, message[size:])
		if kind == protowire.BytesType {
			seen(number, value)
		}
		message = message[size:]
	}
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatal(err)
	}
	trusted, err := credentials.NewClientTLSFromFile(asked.Authority, "")
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(asked.URL, grpc.WithTransportCredentials(trusted))
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	message, answer := encoded(asked), []byte{}
	if err := connection.Invoke(ctx, "/grpcplugin.Expander/BestOptions", &message, &answer, grpc.ForceCodec(raw{})); err != nil {
		log.Printf("GRPC call failed, no options filtered: %v", err)
		for _, option := range asked.Options {
			fmt.Println(option.Group)
		}
		return
	}
	fields(answer, func(_ protowire.Number, option []byte) {
		fields(option, func(number protowire.Number, value []byte) {
			if number == 1 {
				fmt.Println(string(value))
			}
		})
	})
}
