// The vCenter simulator of govmomi, as a second opinion on what this product's own lab vCenter says.
//
// It prints its address once it listens, and ends when its standard input does, so that it never outlives its test.
// Its argument is a PEM file with the key and the certificate to show: the one it brings along is too weak for OpenSSL.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator" // tags
)

func main() {
	pair, err := tls.LoadX509KeyPair(os.Args[1], os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	model := simulator.VPX()
	model.Machine, model.Host, model.ClusterHost, model.Datastore = 1, 0, 2, 2
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	defer model.Remove()
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("administrator", "vcsim")}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	model.Service.RegisterEndpoints = true
	server := model.Service.NewServer()
	defer server.Close()
	fmt.Println(server.URL.Host)
	io.Copy(io.Discard, os.Stdin)
}
