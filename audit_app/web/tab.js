// Tells the server which tab this is: the number outlives a reload, and no other tab knows it.
export default function ({ data, setStateValue }) {
  let token = sessionStorage.getItem("hardrank-tab");
  if (!token) {
    token = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("hardrank-tab", token);
  }
  if (data.token !== token) setStateValue("token", token);
}
