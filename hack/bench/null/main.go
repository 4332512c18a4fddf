// The null offloader: the API calls that offloading a pod takes, and nothing else.
//
// It is the floor that Longshore is measured against, not an offloader that anybody could use: informers on both sides,
// workers without a limit of requests, protobuf, five writes per pod life (delegate created, home Ready, delegate deleted,
// home terminal, home deleted). It translates nothing, forgets whatever it has not seen, and mends nothing.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
)

const label = "null-offloader/node"

type offloader struct {
	node                 string
	home, target         kubernetes.Interface
	homePods, targetPods listers.PodLister
	queue                workqueue.TypedRateLimitingInterface[string]
	// What was done already, by the proxy's UID, since the caches may not show it yet.
	done sync.Map
}

func main() {
	host := flag.String("host", "", "the host's kubeconfig")
	target := flag.String("target", "", "the target's kubeconfig")
	node := flag.String("node", "null", "the virtual node")
	workers := flag.Int("workers", 32, "how many pods at a time")
	flag.Parse()
	o := &offloader{node: *node, home: connect(*host), target: connect(*target)}
	o.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	ctx := context.Background()
	go o.beat(ctx)

	home := informers.NewSharedInformerFactoryWithOptions(o.home, 0, informers.WithTweakListOptions(func(list *meta.ListOptions) {
		list.FieldSelector = "spec.nodeName=" + *node
	}))
	remote := informers.NewSharedInformerFactoryWithOptions(o.target, 0, informers.WithTweakListOptions(func(list *meta.ListOptions) {
		list.LabelSelector = label + "=" + *node
	}))
	for _, factory := range []informers.SharedInformerFactory{home, remote} {
		informer := factory.Core().V1().Pods().Informer()
		if err := informer.SetTransform(withoutManagedFields); err != nil {
			log.Fatal(err)
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    o.add,
			UpdateFunc: func(_, pod any) { o.add(pod) },
			DeleteFunc: o.add,
		}); err != nil {
			log.Fatal(err)
		}
	}
	o.homePods, o.targetPods = home.Core().V1().Pods().Lister(), remote.Core().V1().Pods().Lister()
	for _, factory := range []informers.SharedInformerFactory{home, remote} {
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
	}
	for range *workers {
		go o.work(ctx)
	}
	select {}
}

func connect(path string) kubernetes.Interface {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		log.Fatal(err)
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.UserAgent = "null-offloader"
	return kubernetes.NewForConfigOrDie(config)
}

func withoutManagedFields(object any) (any, error) {
	if pod, ok := object.(*v1.Pod); ok {
		pod.ManagedFields = nil
	}
	return object, nil
}

func (o *offloader) add(object any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
		o.queue.Add(key)
	}
}

func (o *offloader) work(ctx context.Context) {
	for {
		key, stop := o.queue.Get()
		if stop {
			return
		}
		if err := o.settle(ctx, key); err != nil {
			log.Printf("%s: %v", key, err)
			o.queue.AddRateLimited(key)
		} else {
			o.queue.Forget(key)
		}
		o.queue.Done(key)
	}
}

// once says whether something is still to be done for this UID, and takes note.
func (o *offloader) once(what string, uid types.UID) bool {
	_, known := o.done.LoadOrStore(what+string(uid), true)
	return !known
}

func (o *offloader) settle(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	proxy, err := o.homePods.Pods(namespace).Get(name)
	if errors.IsNotFound(err) {
		return nil
	}
	delegate, err := o.targetPods.Pods(namespace).Get(name)
	if err != nil {
		delegate = nil
	}
	uid := proxy.UID
	switch {
	case proxy.DeletionTimestamp == nil && delegate == nil:
		if !o.once("create", uid) {
			return nil
		}
		_, err := o.target.CoreV1().Pods(namespace).Create(ctx, translate(proxy, o.node), meta.CreateOptions{})
		return err
	case proxy.DeletionTimestamp == nil:
		if !ready(delegate) || ready(proxy) || !o.once("ready", uid) {
			return nil
		}
		return o.report(ctx, proxy, delegate.Status)
	case delegate != nil:
		if delegate.DeletionTimestamp != nil || !o.once("stop", uid) {
			return nil
		}
		return o.target.CoreV1().Pods(namespace).Delete(ctx, name, meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &delegate.UID}})
	default:
		if !o.once("end", uid) {
			return nil
		}
		if err := o.report(ctx, proxy, v1.PodStatus{Phase: v1.PodSucceeded, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionFalse}}}); err != nil {
			return err
		}
		// Not "end": an event that is still on its way would have it done twice.
		for _, what := range []string{"create", "ready", "stop"} {
			o.done.Delete(what + string(uid))
		}
		zero := int64(0)
		return o.home.CoreV1().Pods(namespace).Delete(ctx, name, meta.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &meta.Preconditions{UID: &uid}})
	}
}

func translate(proxy *v1.Pod, node string) *v1.Pod {
	spec := proxy.Spec.DeepCopy()
	spec.NodeName, spec.ServiceAccountName, spec.DeprecatedServiceAccount = "", "", ""
	spec.Priority, spec.PreemptionPolicy = nil, nil
	spec.Volumes, spec.Tolerations = nil, nil
	for i := range spec.Containers {
		spec.Containers[i].VolumeMounts = nil
	}
	labels := map[string]string{label: node}
	for key, value := range proxy.Labels {
		labels[key] = value
	}
	return &v1.Pod{ObjectMeta: meta.ObjectMeta{Namespace: proxy.Namespace, Name: proxy.Name, Labels: labels}, Spec: *spec}
}

func (o *offloader) report(ctx context.Context, proxy *v1.Pod, status v1.PodStatus) error {
	body := map[string]any{
		"metadata": map[string]any{"uid": proxy.UID},
		"status":   map[string]any{"phase": status.Phase, "conditions": status.Conditions, "containerStatuses": status.ContainerStatuses},
	}
	patch, err := json.Marshal(body)
	if err != nil {
		return err
	}
	_, err = o.home.CoreV1().Pods(proxy.Namespace).Patch(ctx, proxy.Name, types.StrategicMergePatchType, patch, meta.PatchOptions{}, "status")
	return err
}

func ready(pod *v1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == v1.PodReady {
			return condition.Status == v1.ConditionTrue
		}
	}
	return false
}

// beat registers the node and renews its lease, so that the host's node controller leaves the pods alone.
func (o *offloader) beat(ctx context.Context) {
	now := meta.Now()
	conditions := []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}
	node := &v1.Node{ObjectMeta: meta.ObjectMeta{Name: o.node}, Status: v1.NodeStatus{Conditions: conditions}}
	if _, err := o.home.CoreV1().Nodes().Create(ctx, node, meta.CreateOptions{}); err != nil && !errors.IsAlreadyExists(err) {
		log.Fatal(err)
	}
	patch, _ := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
	if _, err := o.home.CoreV1().Nodes().Patch(ctx, o.node, types.StrategicMergePatchType, patch, meta.PatchOptions{}, "status"); err != nil {
		log.Fatal(err)
	}
	leases := o.home.CoordinationV1().Leases(v1.NamespaceNodeLease)
	for {
		duration, renewed := int32(40), meta.NowMicro()
		lease := &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: o.node}}
		if known, err := leases.Get(ctx, o.node, meta.GetOptions{}); err == nil {
			lease = known
		}
		lease.Spec = coordination.LeaseSpec{HolderIdentity: &o.node, LeaseDurationSeconds: &duration, RenewTime: &renewed}
		var err error
		if lease.ResourceVersion == "" {
			_, err = leases.Create(ctx, lease, meta.CreateOptions{})
		} else {
			_, err = leases.Update(ctx, lease, meta.UpdateOptions{})
		}
		if err != nil {
			log.Print(fmt.Errorf("the lease: %w", err))
		}
		time.Sleep(10 * time.Second)
	}
}
