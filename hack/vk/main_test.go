// The end-to-end suite of the virtual-kubelet project, run against a node of Longshore.
package vk

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/test/e2e"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	kubeconfig = flag.String("kubeconfig", "", "the kubeconfig of the host, with all rights")
	namespace  = flag.String("namespace", "", "the namespace for the suite's pods")
	node       = flag.String("node-name", "", "the virtual node under test")
	without    = flag.String("without", "", "tests to leave out, separated by commas")
	address    = flag.String("gateway-address", "172.30.0.1", "an address of this machine that the host's API server reaches")
)

// The suite asks for stats at this port of a pod that is named like the node.
const port = 10250

func TestVirtualKubelet(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	e2e.NewEndToEndTestSuite(e2e.EndToEndTestSuiteConfig{
		Kubeconfig: *kubeconfig,
		Namespace:  *namespace,
		NodeName:   *node,
		Setup:      func() error { return gateway(t, config) },
		ShouldSkipTest: func(name string) bool {
			return slices.Contains(strings.Split(*without, ","), name)
		},
	}).Run(t)
}

// The suite expects that the kubelet runs in a pod and answers everybody who reaches that pod's port. This kubelet answers
// nobody whom it does not know, so that a pod stands for a gateway that asks it by way of the API server.
func gateway(t *testing.T, config *rest.Config) error {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return err
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		return err
	}
	listener, err := listen(fmt.Sprintf("%s:%d", *address, port))
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(request *httputil.ProxyRequest) {
			path := request.In.URL.Path
			request.SetURL(server)
			request.Out.URL.Path = "/api/v1/nodes/" + *node + "/proxy" + path
			request.Out.Host = server.Host
		},
	}
	// Its certificate is made by httptest: the API server verifies none of pods.
	gateway := httptest.NewUnstartedServer(http.HandlerFunc(proxy.ServeHTTP))
	gateway.Listener.Close()
	gateway.Listener = listener
	gateway.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	gateway.StartTLS()
	t.Cleanup(gateway.Close)
	return stand(t, config)
}

// Another run on this machine may have the port for a while.
func listen(address string) (net.Listener, error) {
	for attempt := 0; ; attempt++ {
		listener, err := net.Listen("tcp", address)
		if err == nil || attempt >= 120 {
			return listener, err
		}
		time.Sleep(time.Second)
	}
}

// Creates the pod that is named like the node. No scheduler knows it, so that nothing runs it.
func stand(t *testing.T, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	pods, ctx := client.CoreV1().Pods(*namespace), context.Background()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: *node},
		Spec: corev1.PodSpec{
			SchedulerName: "nobody",
			Containers:    []corev1.Container{{Name: "gateway", Image: "gateway"}},
		},
	}
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	t.Cleanup(func() { _ = pods.Delete(ctx, *node, metav1.DeleteOptions{}) })
	status, err := json.Marshal(map[string]any{"status": corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: *address, PodIPs: []corev1.PodIP{{IP: *address}},
	}})
	if err != nil {
		return err
	}
	_, err = pods.Patch(ctx, *node, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status")
	return err
}
