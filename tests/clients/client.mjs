// The official JavaScript client, which the folder of the second argument has, against the cluster that KUBECONFIG
// names, in the namespace of the first.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [namespace, folder] = process.argv.slice(2);
const found = createRequire(pathToFileURL(`${resolve(folder)}/`)).resolve('@kubernetes/client-node');
const k8s = await import(pathToFileURL(found));

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const custom = config.makeApiClient(k8s.CustomObjectsApi);
const crontabs = { group: 'clients.improv.dev', version: 'v1', namespace, plural: 'crontabs' };
const options = (strategy) => k8s.setHeaderOptions('Content-Type', strategy);
const merge = options(k8s.PatchStrategy.MergePatch);
const spec = { containers: [{ name: 'main', image: 'improv.dev/hello:0.1.0' }] };

/** The types of a watch's events up to the first that `until` takes. */
function events(path, query, until) {
  const seen = [];
  return new Promise((resolve, reject) => {
    let ended = false;
    const end = (settle, value) => {
      ended = true;
      clearTimeout(timer);
      request.then((controller) => controller.abort());
      settle(value);
    };
    const timer = setTimeout(() => end(reject, new Error(`the watch saw only ${seen}`)), 20_000);
    const request = new k8s.Watch(config).watch(
      path,
      query,
      (type, object) => {
        if (ended) return;
        seen.push(type);
        if (until(type, object)) end(resolve, seen);
      },
      (error) => ended || end(reject, error ?? new Error(`the watch ended after ${seen}`)),
    );
    request.catch(reject);
  });
}

async function refused(code, call) {
  await assert.rejects(call, (error) => error.code === code);
}

async function configMaps() {
  const made = await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'js' }, data: { a: '1' } } });
  assert.ok(made.metadata.uid);
  const patch = { name: 'js', namespace, body: { data: { b: '2' } } };
  const patched = await core.patchNamespacedConfigMap(patch, options(k8s.PatchStrategy.StrategicMergePatch));
  assert.deepEqual(patched.data, { a: '1', b: '2' });
  const json = { name: 'js', namespace, body: [{ op: 'remove', path: '/data/a' }] };
  const removed = await core.patchNamespacedConfigMap(json, options(k8s.PatchStrategy.JsonPatch));
  assert.deepEqual(removed.data, { b: '2' });
  await refused(409, core.replaceNamespacedConfigMap({ name: 'js', namespace, body: made }));
  await core.deleteNamespacedConfigMap({ name: 'js', namespace });
  const query = { fieldSelector: 'metadata.name=js', resourceVersion: made.metadata.resourceVersion };
  const seen = await events(`/api/v1/namespaces/${namespace}/configmaps`, query, (type) => type === 'DELETED');
  assert.deepEqual(seen, ['MODIFIED', 'MODIFIED', 'DELETED']);
  const left = await core.listNamespacedConfigMap({ namespace });
  assert.ok(!left.items.some((item) => item.metadata.name === 'js'));
}

async function deploymentsAndPods() {
  const labels = { app: 'js' };
  const body = {
    metadata: { name: 'js' },
    spec: { replicas: 2, selector: { matchLabels: labels }, template: { metadata: { labels }, spec } },
  };
  await apps.createNamespacedDeployment({ namespace, body });
  const path = `/apis/apps/v1/namespaces/${namespace}/deployments`;
  const available = (_, deployment) => deployment.status?.availableReplicas === 2;
  await events(path, { fieldSelector: 'metadata.name=js' }, available);
  const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'app=js' });
  assert.deepEqual(items.map((pod) => pod.status.phase), ['Running', 'Running']);
  const scale = { name: 'js', namespace, body: { spec: { replicas: 1 } } };
  assert.equal((await apps.patchNamespacedDeploymentScale(scale, merge)).spec.replicas, 1);
  await apps.deleteNamespacedDeployment({ name: 'js', namespace });
}

async function podsAlone() {
  const made = await core.createNamespacedPod({ namespace, body: { metadata: { name: 'alone' }, spec } });
  const path = `/api/v1/namespaces/${namespace}/pods`;
  const fieldSelector = 'metadata.name=alone';
  await events(path, { fieldSelector }, (_, pod) => pod.status.phase === 'Running');
  const patch = { name: 'alone', namespace, body: { metadata: { labels: { seen: 'yes' } } } };
  assert.equal((await core.patchNamespacedPod(patch, merge)).metadata.labels.seen, 'yes');
  await core.deleteNamespacedPod({ name: 'alone', namespace });
  const { resourceVersion } = made.metadata;
  const seen = await events(path, { fieldSelector, resourceVersion }, (type) => type === 'DELETED');
  assert.deepEqual(new Set(seen), new Set(['MODIFIED', 'DELETED']));
}

async function customObjects() {
  const body = {
    apiVersion: 'clients.improv.dev/v1',
    kind: 'CronTab',
    metadata: { name: 'js' },
    spec: { schedule: '* * * * *' },
  };
  await custom.createNamespacedCustomObject({ ...crontabs, body });
  const patch = (spec) => custom.patchNamespacedCustomObject({ ...crontabs, name: 'js', body: { spec } }, merge);
  assert.deepEqual((await patch({ steps: [{ command: 'true' }] })).spec.steps, [{ command: 'true' }]);
  await refused(422, patch({ schedule: 5 }));
  const path = `/apis/clients.improv.dev/v1/namespaces/${namespace}/crontabs`;
  assert.deepEqual(await events(path, {}, () => true), ['ADDED']);
  await custom.deleteNamespacedCustomObject({ ...crontabs, name: 'js' });
  assert.deepEqual((await custom.listNamespacedCustomObject(crontabs)).items, []);
}

await configMaps();
await deploymentsAndPods();
await podsAlone();
await customObjects();
